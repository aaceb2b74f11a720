"""What can go wrong because of what a user gave, and what is worth a warning."""


class CmrmError(ValueError):
    """A mistake a user can make and mend; the message is one sentence: what, why, what to do.

    `field` names the one thing given that is wrong, where it is one: a setting, "prompt" or "image".
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class ServerError(CmrmError):
    """A fault of the server, whatever it was asked: the same may be answered another time."""


class NotThereError(ServerError):
    """A server that is not up now, and may be later."""


class CmrmWarning(UserWarning):
    """Something that works but may not mean what the user expects."""


def first_sentence(error: Exception) -> str:
    """Return the first sentence of another library's message, for use inside one of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")[:300]


class OutOfMemoryError(CmrmError):
    """A request that memory does not hold; a smaller one may fit."""
