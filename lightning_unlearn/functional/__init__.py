"""Pure tensor maths. Nothing in here knows Lightning."""
