import torch
from torch import Tensor, nn

from scfm_hf.models.base import CellPreTrainedModel
from scfm_hf.models.outputs import CellClassifierOutput, CellModelOutput
from scfm_hf.models.side_tables import SideTable
from scfm_hf.nn.pooling import masked_mean

from .configuration_toy import ToyConfig


class ToyPreTrainedModel(CellPreTrainedModel):
    config_class = ToyConfig
    base_model_prefix = "toy"
    supports_gradient_checkpointing = False
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]


class ToyModel(ToyPreTrainedModel):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.genes = SideTable("gene_vectors.safetensors", config.vocab_size, config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> CellModelOutput:
        states = torch.tanh(self.dense(self.genes(input_ids).to(self.dense.weight.dtype)))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return CellModelOutput(last_hidden_state=states, cell_embedding=masked_mean(states, mask))


class ToyForSequenceClassification(ToyPreTrainedModel):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.toy = ToyModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> CellClassifierOutput:
        encoded = self.toy(input_ids, attention_mask)
        logits = self.classifier(encoded.cell_embedding)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return CellClassifierOutput(loss, logits, encoded.cell_embedding)
