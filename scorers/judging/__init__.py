"""What a judge is made of: prompt, model client, answer, budget, gate and cache."""
