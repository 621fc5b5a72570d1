"""What happens, told to tools that watch programs."""
