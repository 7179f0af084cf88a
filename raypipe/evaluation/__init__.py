"""What a model's embeddings, its letters and its structures are worth, measured on labelled sequences."""
