"""The palette of page and plots, by role, on paper and on a dark screen."""

LIGHT = {
    "paper": "#faf9f7",
    "card": "#fefefd",
    "ink": "#1e2329",
    "soft": "#5a6472",
    "rule": "#dcdfe4",
    "grey": "#68707b",
    "caution": "#8a4b08",
    "caution-back": "#fcf3e4",
    "held": "#1d6b3c",
    "partly": "#8a5a00",
    "back": "#a3241b",
    "unknown": "#565e69",
    "student": "#26588c",
    "attack-0": "#c0440e",
    "attack-1": "#0d7a70",
    "attack-2": "#7a3fd1",
    "attack-3": "#97690a",
    "attack-4": "#b51d63",
}
DARK = {
    "paper": "#14171b",
    "card": "#1a1e23",
    "ink": "#e4e7ea",
    "soft": "#9ba5b1",
    "rule": "#333a43",
    "grey": "#8b949f",
    "caution": "#f0b866",
    "caution-back": "#2a2317",
    "held": "#7fcf9b",
    "partly": "#e9bd5a",
    "back": "#ff9c90",
    "unknown": "#a7b0bb",
    "student": "#7db4ea",
    "attack-0": "#f4945f",
    "attack-1": "#4bcabd",
    "attack-2": "#b995f5",
    "attack-3": "#dfbb62",
    "attack-4": "#f283b0",
}
ATTACKS = [role for role in LIGHT if role.startswith("attack-")]
MARKERS = ["s", "^", "D", "v", "P"]


def themed(text: str) -> str:
    """Replace the light palette's colours by the page's variables, so that a drawing follows the reader's theme.

    Example:
        >>> themed("stroke: #26588c")
        'stroke: var(--student)'
    """
    for role, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{role})")
    return text
