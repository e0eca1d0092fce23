"""Many runs of one config: trained, evaluated and reported."""
