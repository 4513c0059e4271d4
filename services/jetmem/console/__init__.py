"""Commands of `jetmem`, one module for each group; each has `register(app)`. Nothing heavy is imported at the top."""
