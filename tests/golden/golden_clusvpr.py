"""ClusVPR: head, full model, initialisation, training pass, losses, whitening and re-ranking."""

import numpy as np
import torch
import torch.nn.functional as F
from goldtools import as_tensors, count, record

from vpr_lib.losses import tuples as losses
from vpr_lib.models.clusvpr import PYRAMIDS, ClusVPR, assignment_from_centres
from vpr_lib.models.cwt import neighbour_sums
from vpr_lib.models.whitening import fit_whitening
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.rerank import k_reciprocal_distances


def compute(fixture):
    if fixture.system != "ClusVPR":
        return None
    parts = {"image": full_model, "teacher_noise": training, "features": head, "centres": initialisation,
             "anchors": tuple_losses, "train": whitening, "database": reranking}  # by an input of theirs  # fmt: skip
    part = next((part for name, part in parts.items() if name in fixture.inputs), None)
    return part and part(fixture)


def tensor(fixture, name):
    return torch.from_numpy(fixture.input(name))


def load(module, fixture, prefix="net_vlad."):
    weights = {key.removeprefix(prefix): value for key, value in as_tensors(fixture.weights()).items()}
    module.load_state_dict(weights, strict=True)
    return module


def head_arguments(fixture):
    """What the config and the published keys say of the head."""
    shapes = {key.partition("net_vlad.")[2]: shape for key, shape, _ in fixture.state_dict}
    given = {
        name: fixture.config[name]
        for name in ("clusters", "groups", "expansion", "neighbours")
        if name in fixture.config
    }
    layers = {key.split(".")[1] for key in shapes if key.startswith("vit_layer.")}
    exponent = "scalar" if shapes.get("GeM_pool.p") == [1] else "per_location"
    return given | {"cwtnets": len(layers), "exponent": exponent, "dropout": fixture.config.get("dropout", 0.1)}


def build_head(fixture):
    _, channels, *grid = fixture.inputs["features"]["shape"]
    return load(ClusVPR(channels, tuple(grid), **head_arguments(fixture)), fixture)


def head(fixture):
    model = build_head(fixture).eval()
    features, names = tensor(fixture, "features"), {}
    layers, size = range(len(model.vit_layer)), tuple(fixture.inputs["features"]["shape"][2:])
    for i in layers:
        block = f"vit_layer.{i}.global_cwt.transformer.encoder.layer.0"
        names |= {f"cwt.{i}": f"vit_layer.{i}", f"cwt.{i}.global": f"vit_layer.{i}.global_cwt", f"cwt.{i}.transformer": block,
                  f"cwt.{i}.attention": f"{block}.attn", f"cwt.{i}.tokens": f"vit_layer.{i}.global_cwt.transformer.embeddings"}  # fmt: skip
    with torch.no_grad(), record(model, names) as outputs:
        outputs["descriptor"] = model(features)
        for i in layers:
            tokens = outputs[f"cwt.{i}.tokens"]
            outputs[f"cwt.{i}.neighbour_sum"] = neighbour_sums(tokens)
            outputs[f"cwt.{i}.token_weight"] = model.vit_layer[i].global_cwt.block.attn.weights(tokens)
        last = model.transform(features)
        y = model.expand(last)
        outputs["expanded"] = y.flatten(1, 2).unflatten(2, size)
        outputs |= {"gem": model.pool(y, size), "attention": model.attend(y, size)}
        outputs |= {"soft_assignment": model.assign(y), "vlad": model.cells(last)[:, 0]}
    return outputs


def full_model(fixture):
    config, size = fixture.config, tuple(fixture.inputs["image"]["shape"][2:])
    backbone = config["backbone"].split()[0]
    model = build_model(
        "clusvpr_vgg16_8192", backbone=backbone, image_size=size, aggregator_args=head_arguments(fixture)
    ).eval()
    renamed = {
        key.replace("base_model.base.", "backbone.model.features.").replace("net_vlad.", "aggregator."): value
        for key, value in as_tensors(fixture.weights()).items()
    }
    model.load_state_dict(renamed, strict=True)
    names = {
        name: name.replace("base.", "backbone.model.features.") for name in fixture.outputs if name.startswith("base.")
    }
    names |= {
        "features": "backbone",
        **{f"cwt.{i}": f"aggregator.vit_layer.{i}" for i in range(len(model.aggregator.vit_layer))},
    }
    with torch.no_grad(), record(model, names) as outputs:
        outputs["descriptor"] = model(tensor(fixture, "image"))
    outputs["global_max"] = outputs["features"].amax(dim=(2, 3))
    trainable = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    outputs["parameters"] = torch.tensor([count(model), count(model.backbone), trainable])
    return outputs


def initialisation(fixture):
    centres, samples = tensor(fixture, "centres"), tensor(fixture, "samples")
    alpha, weight = assignment_from_centres(centres, samples)
    return {"alpha": torch.tensor(alpha), "conv.weight": weight, "centroids": centres}


def hard_losses(fixture, anchors, pairs, prefix=""):
    """All three losses with global negatives and with the hardest region of each, patches (B, J, P, D); t0 of the config."""
    temperature = fixture.config["temperatures"][0]
    found = {}
    mined, index = losses.hardest_regions(anchors[:, 0, 0], pairs[:, 1:])
    found["hardest_patch"] = index
    for name in losses.TUPLE_LOSSES:
        for suffix, negatives in (("gen0", pairs[:, 1:, 0]), ("hardest", mined)):
            loss = losses.tuple_loss(name, anchors[:, 0, 0], pairs[:, 0, 0], negatives, temperature)
            found[f"{prefix}{name}_{suffix}"] = loss
    return found


def region_scores(anchors, others):
    """Similarity of every region of the anchor to every region of every other image: (B, P, D), (B, J, P, D) -> (B, J, P, P)."""
    return torch.einsum("bpd,bjqd->bjpq", anchors, others)


def tuple_losses(fixture):
    raw_anchors, raw_pairs = (tensor(fixture, name).requires_grad_() for name in ("anchors", "pairs"))
    anchors = F.normalize(raw_anchors, dim=-1)
    pairs = F.normalize(raw_pairs + 0.35 * anchors, dim=-1)
    difficult = fixture.inputs["teacher"]["shape"][1]
    teacher_pairs = F.normalize(pairs[:, :difficult] + tensor(fixture, "teacher"), dim=-1)
    scores = region_scores(anchors[:, 0], pairs)
    teacher = region_scores(anchors[:, 0], teacher_pairs)
    outputs = {"scores": scores, "teacher_scores": teacher} | hard_losses(fixture, anchors, pairs)
    taus = fixture.config["temperatures"]
    for generation, tau in enumerate(taus):
        outputs[f"hard_gen{generation}"] = outputs["sare_ind_gen0" if generation == 0 else "sare_ind_hardest"]
        outputs[f"soft_gen{generation}"] = losses.soft_loss(
            scores[:, :difficult, 0].flatten(1), teacher[:, :, 0].flatten(1), taus[0], tau
        )
    config = fixture.config
    hard = outputs[f"{config.get('loss', 'sare_ind')}_hardest"]
    total = hard + config.get("soft_weight", 0.5) * outputs[f"soft_gen{len(taus) - 1}"]
    outputs["grad_anchors"], outputs["grad_pairs"] = torch.autograd.grad(total, (raw_anchors, raw_pairs))
    return outputs


def training(fixture):
    model = build_head(fixture).train()
    features = tensor(fixture, "features").clone()
    features[1] = 0.6 * features[0] + 0.4 * features[1]
    patches = model.pyramid(features, PYRAMIDS["21"])
    anchors, pairs = patches[None, :1], patches[None, 1:]
    scores = region_scores(anchors[:, 0], pairs)
    outputs = {"anchor_patches": anchors, "pair_patches": pairs, "scores": scores} | hard_losses(
        fixture, anchors, pairs, "loss_"
    )
    outputs["hardest_patch"] = outputs["hardest_patch"][0]
    for i in range(len(model.vit_layer)):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            outputs[f"cwt.{i}.local_bn.{name}"] = getattr(model.vit_layer[i].local_bn, name)
    config, difficult = fixture.config, fixture.inputs["teacher_noise"]["shape"][1]
    student = scores[:, :difficult, 0].flatten(1)
    teacher = (scores[:, :difficult] + tensor(fixture, "teacher_noise"))[:, :, 0].flatten(1).detach()
    taus = config["temperatures"]
    for generation, tau in enumerate(taus):
        outputs[f"soft_gen{generation}"] = losses.soft_loss(student, teacher, taus[0], tau)
    hard, weight = outputs[f"loss_{config.get('loss', 'sare_ind')}_hardest"], config.get("soft_weight", 0.5)
    outputs |= {f"total_gen{i}": hard + weight * outputs[f"soft_gen{i}"] for i in range(1, len(taus))}
    outputs[max(name for name in fixture.outputs if name.startswith("total_gen"))].backward()
    return outputs | {f"grad.net_vlad.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}


def whitening(fixture):
    train, test = (F.normalize(tensor(fixture, name), dim=1) for name in ("train", "test"))
    fitted = fit_whitening(train, fixture.config["components"], form=fixture.config["form"])
    white = fitted.apply(test)
    return {
        "eigenvalues": fitted.eigenvalues,
        "mean": fitted.mean,
        "whitened_abs": white.abs(),
        "whitened_gram": white @ white.T,
    }


def reranking(fixture):
    config, raw = fixture.config, tensor(fixture, "database")
    picked = raw[torch.arange(config["queries"]) * (len(raw) // config["queries"])]
    # the note can be read as normalising the database rows first; its own distances (0.3928 first) say the raw rows are meant
    database, queries = F.normalize(raw, dim=1), F.normalize(picked + tensor(fixture, "queries"), dim=1)
    again = k_reciprocal_distances(
        database.cpu().numpy(), queries.cpu().numpy(), config["k1"], config["k2"], config["lambda"]
    )
    return {"distances": torch.cdist(queries, database).square(), "reranked": torch.from_numpy(np.asarray(again))}
