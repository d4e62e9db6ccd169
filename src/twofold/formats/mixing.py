"""Numbers that mix the bits of a 64-bit word: of splitmix64, and of multiplicative hashing.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; Knuth, "The Art of
Computer Programming", vol. 3, "Hashing", for the golden ratio.
"""

from typing import Final

MASK64: Final = 2**64 - 1
GOLDEN: Final = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio, odd
MIX_1: Final = 0xBF58476D1CE4E5B9  # the two factors of splitmix64, and its three shifts
MIX_2: Final = 0x94D049BB133111EB
SHIFT_1: Final = 30
SHIFT_2: Final = 27
SHIFT_3: Final = 31
