"""Pre-training of AIDO.RNA: `raypipe pretrain`.

settings   what a run is told
corpus     tokens of a store's sequences in one memory-mapped file, with their weight, family and part
draws      which sequences each step reads: epochs by weight, and families for the contrastive loss
views      crops and mutations of a sequence
batches    packed, masked tensors of one step
loop       forward, backward, step; validation, metrics, checkpoints
state      what a run needs to go on, and the checkpoint that it leaves
"""
