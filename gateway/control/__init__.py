"""What changes state on request, from whichever side it comes."""
