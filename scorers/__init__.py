"""Stage 2: tail sampling -> rubrics, judges, plug-ins -> scores."""
