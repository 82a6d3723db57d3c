"""Floor 2.5: several LoRA adapters trained together over one frozen base (multi-LoRA)."""
