"""Fine-tuning: labelled sequences in, a head (and, on request, a changed trunk) and its measurements out.

Files are read in `sources`, `tables` and `labels`; what shall be learned is settled in `spaces` and `selection`;
`feeds`, `learners` and `training` teach; `scoring` and `metrics` measure; `result` writes what stays.
`job` is the whole.
"""
