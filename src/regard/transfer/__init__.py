"""What pretrained vectors are worth: every way to use them, measured against controls, by how much data trains."""
