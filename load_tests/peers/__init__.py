"""What Valence is compared with: stand-alone servers, each in the configuration its own documentation recommends."""
