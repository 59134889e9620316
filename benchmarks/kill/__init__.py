"""What is lost when a fit is killed."""
