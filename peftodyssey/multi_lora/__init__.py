"""Several LoRA adapters trained together over one frozen base (multi-LoRA)."""
