"""The model card: words from `model_cards/`, every figure from the report."""

from hf_cxr.hub.card.page import CARD, render_card, write_card
from hf_cxr.hub.card.statements import CardError

__all__ = ["CARD", "CardError", "render_card", "write_card"]
