"""Which public call gives which array of scPRINT."""

from __future__ import annotations

from parity.families.scprint.models import (
    BASE,
    cell_hidden_states,
    cell_mean,
    class_logits,
    classes,
    deeper,
    denoised,
    field,
    generated,
    hidden_states,
    last_hidden_state,
    network,
    predicted,
    queries_keys_values,
    run,
    task,
)
from parity.families.scprint.tokens import aligned_counts, collation, plain
from parity.families.scprint.training import class_loss, losses, step, step_term, term
from parity.rules import Rule, RuleTable

TABLE = RuleTable(
    family="scprint",
    inputs=("input_ids", "values", "depth", "metacell"),
    renames={"mask": "masked", "metacell": "is_metacell", "class": "class_ids", "batch": "batch_ids"},
    rules=(
        Rule("aligned_counts", aligned_counts, section="tokens"),
        Rule("input_ids", plain("input_ids"), section="tokens"),
        Rule("values", plain("values"), section="tokens"),
        Rule("depth", plain("depth"), section="tokens"),
        Rule("collate.{collation}.*", collation, section="tokens"),
        Rule("hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("cell_hidden_states.{layer}", cell_hidden_states, section="hidden states"),
        Rule("qkv.{layer}", queries_keys_values, section="queries, keys, values"),
        Rule("last_hidden_state", last_hidden_state, section="hidden states"),
        Rule("gene_embedding", lambda context: run(context, BASE)["last_hidden_state"], section="hidden states"),
        Rule(("cell_embs", "masked.cell_embs"), field("cell_states"), section="cell embedding"),
        Rule("cell_emb", cell_mean, section="cell embedding"),
        Rule("cell_embedding", field("cell_embedding"), section="cell embedding"),
        Rule(("logits.mean", "masked.mean"), field("mean"), section="counts"),
        Rule("logits.disp", field("dispersion"), section="counts"),
        Rule("logits.zero_logits", field("zero_logits"), section="counts"),
        Rule("mvc_mean", field("cell_mean"), section="counts from the cell"),
        Rule("mvc_disp", field("cell_dispersion"), section="counts from the cell"),
        Rule("mvc_zero_logits", field("cell_zero_logits"), section="counts from the cell"),
        Rule("cls_output_*", class_logits, section="classes"),
        Rule("predict.*", predicted(run), section="prediction"),
        Rule("denoise.*", predicted(deeper), section="denoising"),
        Rule("generate.*", predicted(generated), section="generation"),
        Rule(("loss", "loss.plain_total"), lambda context: losses(context)["loss"], section="losses"),
        Rule("loss.nb", lambda context: losses(context)["terms"]["expression"], section="losses"),
        Rule("loss.classification.*", class_loss, section="losses"),
        Rule("loss.*", term, section="losses"),
        Rule("train.total", lambda context: step(context)[0], section="training step"),
        Rule("train.loss.*", step_term, section="training step"),
        Rule("embedder.scprint_emb", lambda context: task(context)["cell_embedding"], section="cell embedding"),
        Rule("embedder.pred", lambda context: classes(task(context)), section="classes"),
        Rule("denoiser.scprint_mu", denoised("mean"), section="denoising"),
        Rule("denoiser.scprint_theta", denoised("dispersion"), section="denoising"),
        Rule("denoiser.scprint_pi", denoised("zero_logits"), section="denoising"),
        Rule("grn.*", network, section="gene network"),
    ),
)
