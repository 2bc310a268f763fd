"""A training as one would write it by hand, for one run: ImageFolder, PIL, DataLoader, a plain loop, its weights saved.

python -m benchmarks.by_hand TREE SIDE BATCH_SIZE BATCHES SEED; prints the mean training loss.
"""

import os
import sys
import tempfile

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2


def network(side: int) -> nn.Module:
    """Convolution, ReLU, pooling, twice; dense."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * (side // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, 3)),
    )


def main() -> None:
    """One epoch of so many batches of the study's simple CNN."""
    tree, side, batch_size, batches, seed = sys.argv[1], *map(int, sys.argv[2:])
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = [v2.Resize((side, side)), v2.Grayscale(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    folder = ImageFolder(tree, transform=v2.Compose([*steps, v2.Normalize([0.5], [0.5])]))
    loader = DataLoader(folder, batch_size, shuffle=True, num_workers=os.cpu_count() or 1)
    model = network(side).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    total = images = 0.0
    for number, (image, label) in enumerate(loader, start=1):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(image.to(device)), label.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total, images = total + float(loss) * len(label), images + len(label)
        if number == batches:
            break
    with tempfile.TemporaryFile() as file:
        torch.save(model.state_dict(), file)
    print(total / images)


if __name__ == "__main__":
    main()
