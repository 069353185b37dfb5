"""What runs a recurrent layer over a window of text, forward and backward."""
