"""Who answers: the interface of engines (base), and the model in this process (local)."""
