"""Planning: from measured operating points to the batch size, power and duration that spend the fewest joules."""
