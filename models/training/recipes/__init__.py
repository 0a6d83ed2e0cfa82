"""How the shipped checkpoints are made.

Read `recipe` (what a recipe is), `table` (the recipes), then `makers`, which carries one out.

The makers start from `minilm`, whose embeddings `transfer` fits to another vocabulary, or in Chinese from `cooccurrence`.
`chinese` and `finishing` make texts of their own to learn from. `shipped` writes the checkpoint and says what its card holds.
"""

from models.training.recipes.recipe import Recipe
from models.training.recipes.table import RECIPES

__all__ = ["RECIPES", "Recipe"]
