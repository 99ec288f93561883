"""The kinds of sampling policy, one per file: adding one is adding a file with a :class:`~scorers.sampling.policy.Policy`."""
