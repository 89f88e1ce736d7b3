"""The path of a row: from the training process through shared memory to the recorder beside it."""
