"""Adapt a language model under any constraint on the update, and see token by token what it cost."""

__version__ = "0.1.0"
