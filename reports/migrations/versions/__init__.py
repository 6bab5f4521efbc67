"""The steps. One that was released is never edited: stores in the field have taken it."""
