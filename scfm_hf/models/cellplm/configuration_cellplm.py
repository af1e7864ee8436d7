"""Configuration of CellPLM."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import NOT_PREDICTIONS, CellConfig

ENCODERS = ("flowformer", "performer", "cosformer", "transformer", "mlp")
LATENTS = ("gmvae", "vae", "ae", "split", "none")
DECODERS = ("nbmlp", "mlp", "resmlp", "perceptron")
NORMS = ("groupnorm", "layernorm", "batchnorm", "rmsnorm", "none")
OBJECTIVES = ("nb", "imputation", "recon", "denoising")


@strict
class CellPLMConfig(CellConfig):
    """Sizes and options of a CellPLM; the defaults are those of the released ``20230926_85M``.

    Parameters
    ----------
    pooling
        ``latent``: mean of the latent distribution, as the authors do; ``hidden``: the normed state before it.
    vocab_size, num_genes
        Rows of the gene embedding, padding included; genes that the decoder predicts, the first ``num_genes`` ids.
    encoder_type
        How the cells of a set see each other: ``flowformer`` (released), ``performer``, ``cosformer`` (depends on the
        order of the cells), ``transformer``, or ``mlp`` (not at all).
    norm_type
        Norm of embedder, decoder and ``mlp`` encoder.
    attention_probs_dropout_prob
        Dropout behind the flow attention.
    latent_type, latent_size, latent_hidden_size, num_clusters, continuous_size, categorical_size
        Latent: Gaussian mixture (``gmvae``, of ``num_clusters``, through a hidden layer), variational (``vae``), linear
        (``ae``), continuous and categorical part merged (``split``), or ``none``.
    free_bits, likelihood_weight, entropy_weight
        Of the Gaussian mixture's loss: the two parts count from ``free_bits`` on, and by their weights.
    kl_weight, kl_threshold
        Of the variational loss: weight (the original raises it from 0 by 1/10,000 a step), and the value below which it
        is 0.
    sparsity_weight
        Of the split latent's penalty on its continuous map.
    decoder_type, decoder_hidden_size, decoder_layers
        ``nbmlp`` (released) gives mean and dispersion of a negative binomial; ``mlp`` and ``resmlp`` values for a total
        of 1; ``perceptron`` is the head of denoising and perturbation. ``decoder_layers`` counts linear layers.
    num_batches, num_datasets, num_platforms
        Covariates of the decoder (0: none).
    objective
        Loss of the decoder: ``nb`` or ``imputation`` (negative binomial), ``recon`` (squared error of scaled values),
        ``denoising`` (squared error of log values per 10,000).
    evaluate_denoising
        Give the loss of ``denoising`` in evaluation too; the original's is then 0.
    denoise
        In training, add the loss over the entries that were hidden from the input (``nb``).
    mask_cell_rate, mask_gene_rate, mask_by_cell
        In training, hide this share of the entries of this share of the cells (0: none); by a rate that is drawn for
        each cell from a beta distribution.
    position_type, use_positional_encoding
        Whether the checkpoint has a positional encoding of coordinates, and whether to use it. The released forward
        does not, which its authors call a bug.
    add_batch_to_input
        Add an embedding of the batch to the sum over genes.
    num_batch_norms
        Batch norms before the latent, one a batch, in place of the layer norm (0: none).
    classifier_layers, classifier_hidden_size
        Linear layers of the cell classifier, and the width between them.
    label_sets
        The classifier labels whole sets, from the mean over their cells: each cell gets the scores of its set.
    """

    model_type = "scfm-cellplm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *NOT_PREDICTIONS,
        "latent",
        "encoder_output",
        "cluster_logits",
        "latent_loss",
        "losses",
        "means",
        "dispersions",
    ]
    poolings: ClassVar[tuple[str, ...]] = ("latent", "hidden")

    vocab_size: int = 19_375
    num_genes: int = 19_374
    hidden_size: int = 1024
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    encoder_type: str = "flowformer"
    norm_type: str = "groupnorm"
    hidden_dropout_prob: float | int = 0.2
    attention_probs_dropout_prob: float | int = 0.01
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 19_374
    tie_word_embeddings: bool = False
    pooling: str = "latent"
    latent_type: str = "gmvae"
    latent_size: int = 512
    latent_hidden_size: int = 512
    num_clusters: int = 16
    continuous_size: int = 10
    categorical_size: int = 6
    free_bits: float | int = 5.0
    likelihood_weight: float | int = 5.0
    entropy_weight: float | int = 5.0
    kl_weight: float | int = 1.0
    kl_threshold: float | int = 1.0
    sparsity_weight: float | int = 0.01
    decoder_type: str = "nbmlp"
    decoder_hidden_size: int = 1024
    decoder_layers: int = 2
    num_batches: int = 12_596
    num_datasets: int = 484
    num_platforms: int = 0
    objective: str = "nb"
    evaluate_denoising: bool = True
    denoise: bool = True
    mask_cell_rate: float | int = 0.75
    mask_gene_rate: float | int = 0.25
    mask_by_cell: bool = True
    position_type: str | None = "sinusoidal"
    use_positional_encoding: bool = False
    add_batch_to_input: bool = False
    num_batch_norms: int = 0
    classifier_layers: int = 1
    classifier_hidden_size: int = 1024
    label_sets: bool = False

    def check(self) -> None:
        """Raise ValueError if a field has a value that a CellPLM cannot have."""
        super().check()
        choices = {
            "encoder_type": ENCODERS,
            "latent_type": LATENTS,
            "decoder_type": DECODERS,
            "norm_type": NORMS,
            "objective": OBJECTIVES,
            "position_type": (None, "sinusoidal"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, allowed))}.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of num_attention_heads={self.num_attention_heads}."
            )
        if self.use_positional_encoding and (self.position_type is None or self.hidden_size % 4):
            raise ValueError("use_positional_encoding=True needs position_type='sinusoidal' and a width of 4 x n.")
        if self.latent_type == "none" and self.latent_size != self.hidden_size:
            raise ValueError(f"latent_type='none' keeps the width: latent_size must be {self.hidden_size}.")
        if self.num_genes > self.vocab_size:
            raise ValueError(f"num_genes={self.num_genes} is more than vocab_size={self.vocab_size}.")
