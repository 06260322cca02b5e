"""Fine-tuning of the text encoder (`fit`) and of the user tower alone (`refit`) on behaviour.

Both import PyTorch, so who may not need them imports them where they are called; `examples` does without.
"""
