"""What an explanation comes to, in one sentence."""

from .explanation import Explanation

LIKELY = 0.5
_HARDLY = 0.005  # of a cosine


def summarize(found: Explanation) -> str:
    """Say what steering went along with: how likely the answer opens with a refusal, and where the state lies."""
    return f"{_tell_opening(found)}, and {_tell_state(found)}."


def _tell_opening(found: Explanation) -> str:
    at = dict(zip(found.alphas, found.openings, strict=True))
    before, after = at[0.0], at[found.alpha]
    shares = f"{before:.1%} unsteered, {after:.1%} steered"
    if found.parting.place is None:
        return f"Both answers are the same, token by token: a refusal opens them with {shares}"
    match before >= LIKELY, after >= LIKELY:
        case False, True:
            return f"Steering made a refusal the likely opening ({shares})"
        case True, False:
            return f"Steering made a refusal an unlikely opening ({shares})"
        case True, True:
            return f"A refusal was the likely opening by itself, and stays so ({shares})"
    return f"A refusal stays an unlikely opening ({shares})"


def _tell_state(found: Explanation) -> str:
    last = max(found.layers)
    before, after = found.cosines["unsteered"][last], found.cosines["steered"][last]
    little = abs(after - before) < _HARDLY
    cosine = f"(cosine {before:.2f} to {after:.2f})"
    if found.alone:  # there is no way back to where it already was
        way = "hardly left it" if little else "left it"
        return f"as the prompt is text alone, its state at layer {last} began in its text-only place and {way} {cosine}"
    way = "hardly came nearer to" if little else "came nearer to" if after > before else "went away from"
    return f"the prompt's state at layer {last} {way} its text-only place {cosine}"
