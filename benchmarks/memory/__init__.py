"""How much memory a fit takes, against the number of its observations."""
