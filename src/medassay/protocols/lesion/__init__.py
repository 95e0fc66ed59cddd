"""The lesion study: what each residual block of a trained ResNet is worth."""
