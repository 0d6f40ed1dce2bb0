"""The paper's data sets as their owners publish them: found, checked, unpacked, packed, split."""
