"""One file for each job: index a text, score, train, probe. A job reads inputs, computes and commits."""
