"""Train a small torch model through a perturbed argmax, with an error bar on its gradient.

python examples/train_with_torch.py
"""

from __future__ import annotations

import torch

import dpo


def main() -> None:
    """Learn a linear classifier from its decisions, by the Fenchel-Young loss."""
    torch.manual_seed(0)
    x = torch.randn(500, 10)
    labels = (x @ torch.randn(10, 4)).argmax(-1)
    targets = torch.nn.functional.one_hot(labels, 4)

    layer = dpo.Perturbed(dpo.Argmax(), noise="normal", epsilon=0.5, num_samples=100)
    model = torch.nn.Linear(10, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(101):
        loss = layer.loss(model(x), targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            accuracy = (model(x).argmax(-1) == labels).float().mean()
            print(f"step {step:3d}   loss {loss.item():.4f}   accuracy {accuracy.item():.3f}")

    scores = 0.2 * model(x[:1]).detach()
    estimate = layer.estimate(scores, of="vjp", direction=torch.tensor([1.0, 0, 0, 0]), seed=0)
    print("gradient of the first probability:", estimate.mean.numpy().round(3))
    print("                  standard errors:", estimate.standard_error.numpy().round(3))


if __name__ == "__main__":
    main()
