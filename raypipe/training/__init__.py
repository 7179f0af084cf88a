"""Pre-training of AIDO.RNA: `raypipe pretrain`.

settings     what a run is told; recall: and what one that goes on was told before
run          the verb: settle the sequences, train, write what comes of it
folder       of a run: begun, gone on with, finished; job: what every worker is told of it
start        the model that it begins with
stopping     an end before the last step
corpus       tokens of a store's sequences in one memory-mapped file, with their weight, family and part
labels       what annotations say of sequences; lookalikes: kin of held-out families without a label
draws        which sequences each step reads: epochs by weight, and families for the contrastive loss
views        crops and mutations of a sequence
batches      one packed, masked batch
feed         the batches of one worker, step by step; ray_feed: made by Ray Data
learner      the two losses
schedule     learning rate and optimizer
loop         forward, backward, step; validation, metrics, states
state        what a run needs to go on; state_files: where it lies
parallel     workers that train together: data parallel, sharded
worker       one worker's part; ray_workers: several, started by Ray Train
metrics      sums, lines and their file; hardware: what they were computed on
products     the checkpoint with its card and curve
"""
