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
    parts = {"parameters": full_model, "vlad": head, "alpha": initialisation, "anchor_patches": training,
             "teacher_scores": tuple_losses, "eigenvalues": whitening, "reranked": reranking}  # fmt: skip
    return next(part for output, part in parts.items() if output in fixture.outputs)(fixture)


def tensor(fixture, name):
    return torch.from_numpy(fixture.input(name))


def load(module, fixture, prefix="net_vlad."):
    weights = {key.removeprefix(prefix): value for key, value in as_tensors(fixture.weights()).items()}
    module.load_state_dict(weights, strict=True)
    return module


def head(fixture):
    model = load(ClusVPR(), fixture).eval()
    features, names = tensor(fixture, "features"), {}
    for i in range(4):
        block = f"vit_layer.{i}.global_cwt.transformer.encoder.layer.0"
        names |= {f"cwt.{i}": f"vit_layer.{i}", f"cwt.{i}.global": f"vit_layer.{i}.global_cwt", f"cwt.{i}.transformer": block,
                  f"cwt.{i}.attention": f"{block}.attn", f"cwt.{i}.tokens": f"vit_layer.{i}.global_cwt.transformer.embeddings"}  # fmt: skip
    with torch.no_grad(), record(model, names) as outputs:
        outputs["descriptor"] = model(features)
        for i in range(4):
            tokens = outputs[f"cwt.{i}.tokens"]
            outputs[f"cwt.{i}.neighbour_sum"] = neighbour_sums(tokens)
            outputs[f"cwt.{i}.token_weight"] = model.vit_layer[i].global_cwt.block.attn.weights(tokens)
        y = model.expand(outputs["cwt.3"])
        outputs["expanded"] = y.flatten(1, 2).unflatten(2, (30, 40))
        outputs |= {"gem": model.pool(y, (30, 40)), "attention": model.attend(y, (30, 40))}
        outputs |= {"soft_assignment": model.assign(y), "vlad": model.cells(outputs["cwt.3"])[:, 0]}
    return outputs


def full_model(fixture):
    model = build_model("clusvpr_vgg16_8192").eval()
    renamed = {
        key.replace("base_model.base.", "backbone.model.features.").replace("net_vlad.", "aggregator."): value
        for key, value in as_tensors(fixture.weights()).items()
    }
    model.load_state_dict(renamed, strict=True)
    names = {f"base.{i}": f"backbone.model.features.{i}" for i in (4, 9, 16, 23)}
    names |= {"features": "backbone", **{f"cwt.{i}": f"aggregator.vit_layer.{i}" for i in range(4)}}
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


def hard_losses(anchors, pairs, prefix=""):
    """All three losses with global negatives and with the hardest region of each, patches (B, J, P, D)."""
    found = {}
    mined, index = losses.hardest_regions(anchors[:, 0, 0], pairs[:, 1:])
    found["hardest_patch"] = index
    for name in losses.TUPLE_LOSSES:
        for suffix, negatives in (("gen0", pairs[:, 1:, 0]), ("hardest", mined)):
            loss = losses.tuple_loss(name, anchors[:, 0, 0], pairs[:, 0, 0], negatives, 0.06)
            found[f"{prefix}{name}_{suffix}"] = loss
    return found


def tuple_losses(fixture):
    raw_anchors, raw_pairs = (tensor(fixture, name).requires_grad_() for name in ("anchors", "pairs"))
    anchors = F.normalize(raw_anchors, dim=-1)
    pairs = F.normalize(raw_pairs + 0.35 * anchors, dim=-1)
    teacher_pairs = F.normalize(pairs[:, :2] + tensor(fixture, "teacher"), dim=-1)
    scores = losses.region_scores(anchors[:, 0], pairs)
    teacher = losses.region_scores(anchors[:, 0], teacher_pairs)
    outputs = {"scores": scores, "teacher_scores": teacher} | hard_losses(anchors, pairs)
    taus = fixture.config["temperatures"]
    for generation, tau in enumerate(taus):
        outputs[f"hard_gen{generation}"] = outputs["sare_ind_gen0" if generation == 0 else "sare_ind_hardest"]
        outputs[f"soft_gen{generation}"] = losses.soft_loss(
            scores[:, :2, 0].flatten(1), teacher[:, :2, 0].flatten(1), taus[0], tau
        )
    total = outputs["sare_ind_hardest"] + 0.5 * outputs[f"soft_gen{len(taus) - 1}"]
    outputs["grad_anchors"], outputs["grad_pairs"] = torch.autograd.grad(total, (raw_anchors, raw_pairs))
    return outputs


def training(fixture):
    model = load(ClusVPR(exponent="scalar", dropout=0.0), fixture).train()
    features = tensor(fixture, "features").clone()
    features[1] = 0.6 * features[0] + 0.4 * features[1]
    patches = model.pyramid(features, PYRAMIDS["21"])
    anchors, pairs = patches[None, :1], patches[None, 1:]
    scores = losses.region_scores(anchors[:, 0], pairs)
    outputs = {"anchor_patches": anchors, "pair_patches": pairs, "scores": scores} | hard_losses(
        anchors, pairs, "loss_"
    )
    outputs["hardest_patch"] = outputs["hardest_patch"][0]
    for i in range(4):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            outputs[f"cwt.{i}.local_bn.{name}"] = getattr(model.vit_layer[i].local_bn, name)
    student = scores[:, :2, 0].flatten(1)
    teacher = (scores[:, :2] + tensor(fixture, "teacher_noise"))[:, :, 0].flatten(1).detach()
    taus = fixture.config["temperatures"]
    for generation, tau in enumerate(taus):
        outputs[f"soft_gen{generation}"] = losses.soft_loss(student, teacher, taus[0], tau)
    total = next(name for name in fixture.outputs if name.startswith("total_gen"))
    soft = outputs[total.replace("total", "soft")]
    outputs[total] = outputs["loss_sare_ind_hardest"] + 0.5 * soft
    outputs[total].backward()
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
