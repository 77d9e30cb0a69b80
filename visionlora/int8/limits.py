"""How far the integers of an int8 file reach: the writer rounds by these numbers, and training that imitates it."""

WEIGHT_MAX = 127
INT7_MAX = 63
"""Two products of such a weight and a uint8 fit into an int16, which x86 without VNNI adds them up in."""
INT4_MAX = 7
MULTIPLIER_MAX = 15
"""Of a group of int4 weights, in 4 bits; the product of both is an int8."""
ALMOST = 2.0**-10
"""A largest weight a thousandth above its group's last level is on it."""
BIAS_MAX = 2**30
"""Half of int32, so that the sum of products still has room."""
