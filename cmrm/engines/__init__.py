"""Who answers: the interface of engines (base), the model in this process (local), and one in a vLLM server (vllm)."""
