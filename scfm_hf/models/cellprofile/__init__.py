"""CellProfile: a small contrastive encoder of whole profiles beside two linear maps, pretrained by this library."""
