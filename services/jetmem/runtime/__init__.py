"""What every stage process stands on: settings, clock, errors, limits, metrics, health, the projection loop."""
