"""What the results files say of the claims of the paper."""
