"""Many runs of one experiment, and their comparison."""
