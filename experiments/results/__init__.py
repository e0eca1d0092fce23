"""What the results files say about the claims of the paper."""
