"""A stand-in for what generic classes need of `typing` at run time: to import it takes too long."""

from types import GenericAlias

__all__ = ["Generic"]


class Generic:
    """Base of a class that may stand in annotations with the types of its parts in brackets."""

    __slots__ = ()

    @classmethod
    def __class_getitem__(cls, parts: object) -> GenericAlias:
        return GenericAlias(cls, parts)
