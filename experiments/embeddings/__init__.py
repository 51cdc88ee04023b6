"""Claims about adapters on frozen embeddings: when they gain anything, and what a calibration is worth."""
