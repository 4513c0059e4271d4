"""Outside things, one file each: broker, stores, indexes, model. Stages reach them through ports."""
