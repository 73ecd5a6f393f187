"""Meanings of the report's terms, for a reader who was not there."""

from lightning_unlearn.report.schema import RobustnessReport

DEFINITIONS = {
    "verdict": (
        "It stayed forgotten: the worst that was tried brought back at most 5 % of what was removed, with its interval. It "
        "came back: more than 20 %, with its interval. Some came back: between the two. The worst is the largest recovery "
        "of an adversary or a deployment that passes its gates, beyond the control where there is one; with ten entities or "
        "more, as judged by the half of the entities that did not choose the attack."
    ),
    "original": "The model before the first step of this run: it still knows what it will be asked to forget.",
    "unlearned": "The model at the end of the run, before anyone attacks it.",
    "control": (
        "A model that never knew the forget set, attacked in the same way. What an attack brings out of it was taught by "
        "the attack, not hidden in the model."
    ),
    "forget set": "What the model was asked to forget. Lower knowledge is better.",
    "retain set": "What the model should still know. Knowledge as high as the original's is better.",
    "adversary": (
        "Somebody who wants the knowledge back: relearning, for instance. He does not care whether the rest of the model "
        "still works, so what an attack of his costs is shown as its price and excuses nothing."
    ),
    "deployment": (
        "What is done to a model in order to use it: rounding, pruning, merging, compressing. If it breaks the model (G3), "
        "nobody would deploy it, and its number does not count."
    ),
    "recovery": (
        "(attacked - unlearned) / (original - unlearned) on the forget set: the share of what was removed that an "
        "attack brings back. 0 % is as forgotten as before the attack, 100 % as known as before unlearning."
    ),
    "beyond control": (
        "[(attacked - unlearned) - (control attacked - control)] / (original - unlearned): recovery, less what the same "
        "attack teaches the control. It separates what was still in the model from what was taught anew. The verdict "
        "leads with the attack and point where this is largest; without a control, where recovery is."
    ),
    "price": (
        "1 - (attacked / unlearned) on the retain set: the share of what was to be kept that the attack costs. Of a loss "
        "in nats, the likelihood e^-loss is compared; of the user's own loss, in whatever units, 1 / loss."
    ),
    "specificity": (
        "How often the right answer is more likely than other people's (or things') answers to the same question. At 0.5, "
        "chance, a model does not know the answer, even if it has become likely with all the others: it would say "
        "anything. A point of an attack counts only if its specificity, with the interval, is above 0.5. Where "
        "specificity was not measured, the point counts, with a warning."
    ),
    "not shown": (
        "An attack or an audit failed with an error, or the run was ended before its time. What was measured before is "
        "listed, but is no verdict: what failed might have brought back more."
    ),
    "worst case": (
        "The largest number over all points of all attacks that pass their gates. The largest of several noisy numbers errs "
        "towards recovery. So, where there are ten entities or more, one half of them chooses the worst attack and the "
        "other half says what it brings back, both ways round; that number leads."
    ),
    "still known": (
        "(attacked - floor) / (original - floor), where the floor is what a model that never knew scores: the control, if "
        "there is one."
    ),
    "interval": (
        "In square brackets: a 95 % interval from a paired, studentised bootstrap that resamples whole entities (authors, "
        "documents, classes), because questions about one entity are not independent; never narrower than Student's t. "
        "Shares of yes and no have exact (Clopper-Pearson) intervals. With fewer than five entities questions are resampled "
        "instead, and nothing is said of other entities. It covers the choice of examples, not the randomness of training."
    ),
    "gates": (
        "Conditions without which a number is not a verdict. A number that misses one is shown in grey, with the reason. "
        "G1: something was removed. G2: the unlearned model keeps 0.8 of the original's retain utility. G3, of deployments "
        "only: the model keeps 0.95 of the unlearned model's retain utility. G4: a control was attacked too (if not: a "
        "warning). G5: the attack was run on the final model. G6: the attack left no trace in the weights. G7: "
        "specificity is above chance (if the rows are too few to tell: a warning). G8: the run was not ended before its "
        "time, and no attack and no audit failed on the "
        "final model. G9, of attacks that round or change single weights: they reached half of the weights that they are "
        "for (embeddings, and an output head left in full, are not counted). G10, of adversaries: the attack changed what "
        "the model says; one without effect shows nothing. G11: nobody can tell from the model which "
        "examples were to go (if one can: a warning). G12, where general benchmarks were run: the loss on them is "
        "within what was allowed beforehand."
    ),
    "q-value": (
        "The chance of being wrong, over all attacks: of the attacks with a q-value up to 5 %, one in twenty is expected to "
        "have brought back nothing beyond the control (Benjamini-Hochberg)."
    ),
    "steps to recover": (
        "How many steps of an attack bring back half (or 90 %) of what was removed. If so much did not come back within the "
        "steps tried, this is said to be more than them (> 100), never 100."
    ),
}


def definitions_for(report: RobustnessReport) -> dict[str, str]:
    """The words that this report uses."""
    used = {
        "control": any(level.model == "control" for level in report.levels),
        "beyond control": any(recovery.adjusted is not None for recovery in report.recoveries),
        "not shown": bool(report.failures or report.run.get("interrupted")),
        "q-value": any(recovery.q_value is not None for recovery in report.recoveries),
        "steps to recover": bool(report.summary.get("effort")),
        "still known": any(recovery.kappa is not None for recovery in report.recoveries),
    }
    return {word: meaning for word, meaning in DEFINITIONS.items() if used.get(word, True)}
