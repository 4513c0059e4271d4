"""Rules that stages share: no I/O, no clock, no await."""
