"""Nets: plain `nn.Module`s, tensor in, tensor out. None of them knows of Lightning."""
