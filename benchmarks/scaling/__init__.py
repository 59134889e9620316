"""How much faster several processes are than one."""
