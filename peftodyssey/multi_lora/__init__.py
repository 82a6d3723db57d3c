"""Floor 2.5: several LoRA adapters trained together over one frozen base (multi-LoRA). May import floors 0 to 2."""
