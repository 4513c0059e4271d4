"""The project's own sample: six weeks of an invented team at work, with questions and their evidence, and runs."""
